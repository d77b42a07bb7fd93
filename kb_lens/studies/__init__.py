"""The paper's studies: what each varies, how it is run, and the tables that come out."""
