"""What becomes of samples, by domain; one file per domain, registered in reed.sample.sample_set."""
