/** @odoo-module **/

import { Component, useState } from "@odoo/owl";
import { DeviceLive } from "@industrial_iot/live/device_live";
import { registry } from "@web/core/registry";
import { standardWidgetProps } from "@web/views/widgets/standard_widget_props";

/** What the devices of a machine say now, one at a time. */
export class EquipmentReadings extends Component {
    static template = "industrial_iot_maintenance.EquipmentReadings";
    static components = { DeviceLive };
    static props = { ...standardWidgetProps };

    setup() {
        this.state = useState({ chosen: false });
        this.told = {};
    }

    get devices() {
        return this.props.record.data.iiot_device_ids.records.map(({ resId, data }) => ({
            id: resId,
            name: data.display_name,
        }));
    }

    get device() {
        return this.devices.find(({ id }) => id === this.state.chosen) || this.devices[0];
    }

    choose(id) {
        this.state.chosen = id;
    }

    /** The warning above and the button must not say something else. */
    async onLive(id, live) {
        const before = this.told[id];
        this.told[id] = live.status === "online" ? live.status : live.connection;
        const record = this.props.record;
        if (before && before !== this.told[id] && !(await record.isDirty())) {
            await record.load();
        }
    }
}

registry.category("view_widgets").add("iiot_equipment_readings", { component: EquipmentReadings });
