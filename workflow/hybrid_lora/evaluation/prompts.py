"""Prompt templates of the configuration -> the text that the model is given, chat template applied."""

from hybrid_lora.common.errors import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def render(tokenizer, template, row, where):
    """The rendered prompt of one benchmark row. `{options}` becomes one line per option, "A. text".

    Raises UserError, without any question text, if the template names a field the benchmark does not have.
    """
    fields = dict(row)
    if "options" in fields:
        fields["options"] = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, fields["options"]))
    try:
        content = template.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(sorted(fields))
        raise UserError(f"{where}: prompt template names field {error}; this benchmark has {known}") from None
    return tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
