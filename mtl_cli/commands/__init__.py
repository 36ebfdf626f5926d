"""What each command does, given a plain configuration."""
