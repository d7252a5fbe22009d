from typing import Any

import werkzeug.exceptions
from odoo import http

from ..lib.problems import RefusalError
from .requests import contract_route

MAX_ID = 2**31


class FirmwareController(http.Controller):
    """Files of firmware, for the appliances whose devices are to get them."""

    @contract_route("/iiot/firmware/<int:firmware_id>/file", methods=["GET"])
    def file(self, gateway: Any, firmware_id: int) -> http.Response:
        """The file or a part of it, read in pieces from where Odoo keeps it; also ``HEAD``."""
        gateway._check_database(None)
        domain = [("firmware_id", "=", firmware_id), ("device_id.gateway_id", "=", gateway.id)]
        ordered = firmware_id < MAX_ID and gateway.env["iiot.update"].sudo().search(domain, limit=1)
        attachment = ordered and ordered.firmware_id._file_attachment()
        if not attachment:
            raise RefusalError(404, "unknown_firmware", "no such firmware for a device of this gateway")
        stream = gateway.env["ir.binary"]._record_to_stream(attachment, "raw")
        stream.etag = ordered.firmware_id.sha256
        stream.mimetype = "application/octet-stream"
        try:
            response = stream.get_response(as_attachment=False)
        except werkzeug.exceptions.RequestedRangeNotSatisfiable:
            headers = {"Content-Range": f"bytes */{stream.size}"}
            raise RefusalError(416, "bad_range", "outside the file", headers=headers) from None
        except FileNotFoundError:
            raise RefusalError(404, "unknown_firmware", "the file is not there any more") from None
        response.headers["Accept-Ranges"] = "bytes"
        return response
