"""From a log to batches: readers -> filters -> sequences -> split -> co-occurrence -> batches."""
