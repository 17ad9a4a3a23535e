"""COMPRESSION: one class per way to make the stored model smaller."""
