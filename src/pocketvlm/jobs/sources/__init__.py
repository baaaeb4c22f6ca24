"""Sources give the lines of a job: OpenAI's batch files, tables, and images."""
