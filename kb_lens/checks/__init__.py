"""Doubt: are these neurons about bias, and is what they do more than what others do?"""
