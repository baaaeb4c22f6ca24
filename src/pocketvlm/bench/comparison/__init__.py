"""The report on two models: as text, as a plot, and with their speed."""
