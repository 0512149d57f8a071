"""What the compatibility benchmark tries: tables of tiny networks, and how each group is measured."""
