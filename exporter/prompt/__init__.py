"""From a template to token ids.

In: a template, a tokenizer, a catalog's tables. Out: the prompt program, its pieces, and prompts as the runtime assembles them.
Public: `template.read_template`, `program.compile_program`, `builder.PromptBuilder`, `builder.Prompt`.
"""
