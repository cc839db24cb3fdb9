"""What happens on other machines: inventory, SSH, facts, checks, launch plan, containers, log streams."""
