"""config/schema.yaml applied: defaults filled in, and the first error as one line that names what is allowed."""

import math
import re
import string

from hybrid_lora.common.code import ROOT
from hybrid_lora.config import words
from hybrid_lora.config.layers import merge, read_yaml

PATH = ROOT.parent / "config" / "schema.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
NAME_RULE = "names hold letters, digits and _ . + -, and begin with a letter or digit, as they become file names"
KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
LIMITS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "minItems": "must hold at least {} entry",
    "minProperties": "must hold at least {} entry",
    "minLength": "must not be empty",
}


def fill(values, origin):
    """A copy of `values` with the schema's defaults; UserError by `origin.error` if it does not fit the schema."""
    _names_are_text(values, (), origin)
    filled = merge({}, values)
    errors = list(_validator(read_yaml(PATH)).iter_errors(filled))
    if errors:
        # An unknown key often explains a missing one, so it comes first.
        error = min(errors, key=lambda e: (e.validator == "required", e.validator != "additionalProperties", len(e.path)))
        raise origin.error(*_message(error))
    return filled


def template_error(text):
    """What is wrong with a prompt template, or None. Braces name plain fields; {{ and }} are literal."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        return f"is not a template: {error}; write {{{{ and }}}} for literal braces"
    for _, field, spec, conversion in parts:
        if field is not None and (spec or conversion or not re.fullmatch(r"[A-Za-z_][\w ]*", field)):
            return f"is not a template: '{{{field}}}' names no field; write {{{{ and }}}} for literal braces"
    return None


def _names_are_text(value, path, origin):
    """YAML keys such as 2024 or yes are no text; they could not be told from one another in file names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise origin.error((*path, str(key)), f"the key {key!r} is no text; put it in quotes")
            _names_are_text(inner, (*path, key), origin)


def _validator(schema):
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.validators import extend

    formats = FormatChecker(formats=())
    formats.checks("template")(lambda text: not isinstance(text, str) or template_error(text) is None)
    plain = Draft202012Validator.VALIDATORS["properties"]

    def properties(validator, rules, instance, whole):
        if isinstance(instance, dict):
            for key, rule in rules.items():
                if "default" in rule:
                    default = rule["default"]
                    instance.setdefault(key, {} if default == {} else default)
        yield from plain(validator, rules, instance, whole)

    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    kind = extend(Draft202012Validator, {"properties": properties}, type_checker=types)
    return kind(schema, format_checker=formats)


def _is_integer(checker, value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker, value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _message(error):
    """(path of the key, what is wrong with it)."""
    path, rule, value, wanted = tuple(error.absolute_path), error.validator, error.instance, error.validator_value
    if rule == "additionalProperties":
        allowed = list(error.schema.get("properties", {}))
        key = next(k for k in value if k not in allowed)
        return (*path, key), f"unknown key; allowed: {', '.join(allowed)}{words.meant(key, allowed)}"
    if rule == "required":
        missing = [key for key in wanted if key not in value]
        return (*path, missing[0]), "is missing"
    if rule == "enum":
        return path, words.choice(value, ["null" if v is None else v for v in wanted])
    if rule == "type":
        return path, _wrong_type(value, wanted if isinstance(wanted, list) else [wanted])
    if rule == "pattern":
        return path if error.schema_path[-2] != "propertyNames" else (*path, value), _wrong_pattern(value, wanted)
    if rule == "format":
        return path, template_error(value)
    if rule == "uniqueItems":
        return path, f"names {next(v for v in value if value.count(v) > 1)!r} twice"
    if rule in LIMITS:
        return path, f"is {value!r}, {LIMITS[rule].format(wanted)}"
    return path, error.message


def _wrong_type(value, wanted):
    kinds = " or ".join(KINDS[w] for w in wanted)
    hint = ""
    if isinstance(value, str) and {"integer", "number"} & set(wanted) and _reads_as_number(value):
        hint = " (YAML reads this as text; write 1.0e-6, with a dot and a sign)"
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return f"is {shown if len(shown) < 60 else 'of another kind'}, must be {kinds}{hint}"


def _wrong_pattern(value, pattern):
    if pattern.strip("^$") == NAME.pattern:
        return f"{value!r} is no name; {NAME_RULE}"
    if pattern.startswith("^#"):
        return f"is {value!r}, must be a colour such as '#d62728'"
    return f"is {value!r}, must be a repository on the hub, owner/name"


def _reads_as_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
