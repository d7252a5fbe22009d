-- a copy of the database must not be taken for the original by any appliance, nor call one
UPDATE iiot_gateway
   SET is_enabled = false, api_url = NULL, api_key = NULL, ca_pem = NULL, code_digest = NULL;
UPDATE iiot_gateway_report SET identity = NULL, admission = NULL;
DELETE FROM iiot_gateway_key;
DELETE FROM iiot_device_token;
