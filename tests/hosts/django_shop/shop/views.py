"""Two ways to the same order: an ordinary view and an asynchronous one."""

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.views.decorators.http import require_POST

from . import orders


@require_POST
def ship(request, number):
    """Ship an order."""
    orders.ship(number)

    return HttpResponse(status=204)


@require_POST
async def ship_async(request, number):
    """Ship an order from an asynchronous view: the whole transaction goes through one `sync_to_async`."""
    await sync_to_async(orders.ship)(number)

    return HttpResponse(status=204)
