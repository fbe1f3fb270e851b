"""Export of subnets: files that infer and train, and files that only infer."""
