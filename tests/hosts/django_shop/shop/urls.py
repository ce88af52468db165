"""The shop's addresses."""

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/<str:number>/ship", views.ship),
    path("orders/<str:number>/ship-async", views.ship_async),
]
