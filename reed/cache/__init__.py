"""The feature cache: the only thing that stage one and stage two share."""
