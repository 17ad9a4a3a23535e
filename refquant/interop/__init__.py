"""Files of other libraries: read into the records of this one, and run."""
