"""Reports: tables and pictures of what programs found."""
