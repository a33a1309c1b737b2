"""Stateless tensor maths shared by two or more methods or rooms."""
