"""The merge of devices' updates into a supernet, and its report."""
