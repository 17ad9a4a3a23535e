"""The few words of JSON Schema 2020-12 that ``data/schema.json`` uses.

So a file is always checked, though a general validator is no dependency of this package; a
test compares the two.
"""

import re
from collections.abc import Mapping
from typing import Any

from refquant._validate import short

KNOWN = {
    "$schema", "$id", "$defs", "$ref", "title", "type", "const", "enum", "pattern", "required",
    "properties", "additionalProperties", "items", "minItems", "maxItems", "minimum",
}  # fmt: skip
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "null": type(None),
}  # fmt: skip


def first_error(document: Any, schema: Mapping[str, Any]) -> str | None:
    """Where `document` departs from `schema` first, or None."""
    return _first_error(document, schema, schema, "document")


def _first_error(
    value: Any, rule: Mapping[str, Any], root: Mapping[str, Any], where: str
) -> str | None:
    if "$ref" in rule:
        return _first_error(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root, where)
    own = _own_error(value, rule)
    if own:
        return f"{where} {own}"
    for key, part, sub in _parts(value, rule):
        found = _first_error(part, sub, root, f"{where}.{key}")
        if found:
            return found
    return None


def _own_error(value: Any, rule: Mapping[str, Any]) -> str | None:
    """What is wrong with the value itself, its parts left aside."""
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and (isinstance(value, bool) or not any(isinstance(value, _TYPES[t]) for t in types)):
        return f"must be of type {' or '.join(types)}"
    if "const" in rule and value != rule["const"]:
        return f"must be {rule['const']!r}"
    if "enum" in rule and value not in rule["enum"]:
        return f"must be one of {', '.join(map(str, rule['enum']))}"
    if isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value):
        return f"must match {rule['pattern']}; got {short(repr(value))}"
    if isinstance(value, int) and value < rule.get("minimum", value):
        return f"must be at least {rule['minimum']}"
    if isinstance(value, list):
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            return "has the wrong number of items"
    elif isinstance(value, dict):
        missing = [key for key in rule.get("required", []) if key not in value]
        if missing:
            return f"lacks {missing[0]!r}"
        if rule.get("additionalProperties") is False:
            extra = sorted(set(value) - set(rule.get("properties", {})))
            if extra:
                return f"has the unknown field {extra[0]!r}"
    return None


def _parts(value: Any, rule: Mapping[str, Any]) -> list[tuple[str, Any, Mapping[str, Any]]]:
    if isinstance(value, list) and "items" in rule:
        return [(str(i), part, rule["items"]) for i, part in enumerate(value)]
    if isinstance(value, dict):
        named, other = rule.get("properties", {}), rule.get("additionalProperties")
        rules = ((k, v, named.get(k, other)) for k, v in value.items())
        return [(k, v, sub) for k, v, sub in rules if isinstance(sub, dict)]
    return []
