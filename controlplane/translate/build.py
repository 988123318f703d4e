"""All resources of a proxy class, each made once per distinct input.

Owns which inputs a class has and the memory of what they became.
"""
