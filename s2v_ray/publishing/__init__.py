"""Cards of models and corpora in Markdown, and publication on a model hub."""
