"""From dialogues to a report in one command: which stages there are, which must run, and how they are run."""
