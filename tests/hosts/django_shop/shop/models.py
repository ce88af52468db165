"""Orders of the shop."""

from django.db import models


class Order(models.Model):
    """What a customer has bought; `state` is the shop's own."""

    number = models.CharField(max_length=100, unique=True)
    klarna_id = models.CharField(max_length=100)
    amount = models.BigIntegerField()
    state = models.CharField(max_length=20, default="ordered")

    def __str__(self):
        return self.number
