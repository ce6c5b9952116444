"""Model -> numbers.

agreement.py    how far two models are apart in what they say next
"""
