"""One of each for the whole process; `create_app` makes an application known to them."""

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from worker.contrib.flask import PostPurchase

db = SQLAlchemy()
migrate = Migrate()
post_purchase = PostPurchase()
