/** @odoo-module **/

import { registry } from "@web/core/registry";
import { session } from "@web/session";

const tours = registry.category("web_tour.tours");
const isOdoo17 = session.server_version_info?.[0] < 18;
/** Odoo 17 takes a tour without this mark for one that teaches people; later ones refuse it. */
const kind = isOdoo17 ? { test: true } : {};
/** Odoo 17 calls it text, later ones edit. */
const type = (text) => (actions) => (actions.edit ? actions.edit(text) : actions.text(text));
/** Something is there, and is not touched. Without the mark Odoo 17 would click; later ones refuse it. */
const look = isOdoo17 ? { isCheck: true } : {};

/** Selectors do not name the dialog: Odoo 17 looks inside of one that is open, later ones refuse what is below it. */
const menu = (section, item) => [
    { trigger: `.o_menu_sections [data-menu-xmlid="industrial_iot.${section}"]`, run: "click" },
    { trigger: `[data-menu-xmlid="industrial_iot.${item}"]`, run: "click" },
];

/** A device is made, and the token it is to be paired with is seen once. */
tours.add("industrial_iot_pair_device", {
    ...kind,
    steps: () => [
        ...menu("menu_device_management", "menu_device"),
        { trigger: ".o_list_button_add", run: "click" },
        { trigger: ".o_field_widget[name=serial_number] input", run: type("SN-TOUR-1") },
        { trigger: ".o_field_widget[name=profile_id] input", run: type("Tour press") },
        { trigger: ".o-autocomplete--dropdown-item a:contains(Tour press)", run: "click" },
        { trigger: "button[name=action_generate_token]", run: "click" },
        { trigger: ".o_field_widget[name=token]", ...look },
        { trigger: ".modal-footer button:contains(Done)", run: "click" },
        { trigger: ".o_arrow_button_current:contains(Provisioned)", ...look },
    ],
});

/** A command is sent to a device that is paired, and its record is found. */
tours.add("industrial_iot_send_command", {
    ...kind,
    steps: () => [
        ...menu("menu_device_management", "menu_device"),
        { trigger: ".o_data_row td:contains(Tour device)", run: "click" },
        { trigger: "button[name=action_send_command_dialog]", run: "click" },
        { trigger: ".o_field_widget[name=action] input", run: type("reset") },
        { trigger: "button[name=action_send]", run: "click" },
        { trigger: "body:not(:has(.modal)) button[name=action_open_commands]", run: "click" },
        { trigger: ".o_data_row td:contains(reset)", ...look },
    ],
});
