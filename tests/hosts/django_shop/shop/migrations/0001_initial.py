"""Orders."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Make the table of orders."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.CharField(max_length=100, unique=True)),
                ("klarna_id", models.CharField(max_length=100)),
                ("amount", models.BigIntegerField()),
                ("state", models.CharField(default="ordered", max_length=20)),
            ],
        ),
    ]
