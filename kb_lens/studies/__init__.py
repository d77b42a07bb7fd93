"""The paper's studies: what each varies, how it is run, and its tables."""
