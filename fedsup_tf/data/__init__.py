"""Image data sets: archives, preprocessing and federated partitions."""
