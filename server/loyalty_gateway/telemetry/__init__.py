"""Names and shapes of spans, metrics and log lines; never the place of a decision."""
