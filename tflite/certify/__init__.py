"""The certificate of an exported file: checks against the subnet it was cut from."""
