"""What is started: the command line, one flow a file, and what they show on the terminal."""
