"""Parts of the commands about language models."""
