"""Datasets: from pictures to the patches that networks train on."""
