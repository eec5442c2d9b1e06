"""Prompt templates of the configuration -> the text that the model is given, chat template applied."""

from hybrid_lora.common.errors import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def render(tokenizer, template, row, where, few_shot=None, examples=()):
    """The rendered prompt of one benchmark row. `{options}` becomes one line per option, "A. text".

    few_shot: {count, group (a column or None), answer (a template)} puts that many of `examples` (rows), in their order and
    of the row's own group, before the question, as turns of the conversation; None or count 0: zero-shot.
    Raises UserError, without any question text, if a template names a field the benchmark does not have.
    """
    messages = []
    for example in _shots(row, few_shot, examples, where):
        messages += [
            {"role": "user", "content": _fill(template, example, f"{where}, few-shot example")},
            {"role": "assistant", "content": _fill(few_shot["answer"], example, f"{where}, few-shot answer")},
        ]
    messages.append({"role": "user", "content": _fill(template, row, where)})
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _shots(row, few_shot, examples, where):
    if not few_shot or not few_shot["count"]:
        return []
    group = few_shot.get("group")
    found = [example for example in examples if group is None or example.get(group) == row.get(group)]
    if len(found) < few_shot["count"]:
        raise UserError(f"{where}: holds {len(found)} examples for id '{row['id']}', few_shot.count is {few_shot['count']}")
    return found[: few_shot["count"]]


def _fill(template, row, where):
    fields = dict(row)
    if "options" in fields:
        fields["options"] = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, fields["options"]))
    try:
        return template.format(**fields)
    except KeyError as error:
        known = ", ".join(sorted(fields))
        raise UserError(f"{where}: prompt template names field {error}; this benchmark has {known}") from None
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: prompt template cannot be filled ({error}); write literal braces twice") from None
