"""WORKFLOW: one class per step of the path from a float model to a small one."""
