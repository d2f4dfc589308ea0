"""What the subcommands of ``mf-llm`` do; `mf_llm.cli` only reads their arguments."""
