"""The files of an experiment: CSVs, configuration, versions."""
