"""What data files and models cannot say."""


def uninstall_hook(env):
    """Drop the tables that belong to no model."""
    env.cr.execute(
        "DROP TABLE IF EXISTS iiot_receipt, iiot_gateway_start, iiot_gateway_epoch, iiot_device_change CASCADE"
    )
