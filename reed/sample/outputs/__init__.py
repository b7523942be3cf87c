"""Files of samples: one module per domain, registered in reed.sample.sample_set."""
