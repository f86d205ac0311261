"""Records in, judgements and tables out: nothing here measures, trains or draws."""
