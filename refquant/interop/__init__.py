"""Networks of other tools: files of theirs read and run as their runtimes would."""
