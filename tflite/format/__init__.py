"""The format of what phones receive and send: signatures, metadata, update files."""
