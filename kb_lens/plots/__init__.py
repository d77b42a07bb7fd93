"""How the figures are drawn, a file a stage of the method. The public names: `kb_lens.figures`."""
