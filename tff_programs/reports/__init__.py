"""Reports: tables and figures of the results of programs."""
