/** @odoo-module **/

import { Component, onMounted, onWillStart, onWillUnmount, useEffect, useRef, useState } from "@odoo/owl";
import { loadBundle } from "@web/core/assets";
import { _t } from "@web/core/l10n/translation";
import { registry } from "@web/core/registry";
import { useService } from "@web/core/utils/hooks";
import { useRecordObserver } from "@web/model/relational_model/utils";
import { standardWidgetProps } from "@web/views/widgets/standard_widget_props";

const ASK_EVERY_MS = 5000;
const MISSING_STEPS = 5;
const LINE = "#714B67";
const BAND = "rgba(113, 75, 103, 0.15)";

/** Whether the line ends there. */
const isGap = (point) => !point || point[1] === null;

/** The points of a chart, and one without a value wherever several are missing: no line is drawn over an outage. */
export function withGaps(points, stepS) {
    const spans = points.slice(1).map((point, index) => point[0] - points[index][0]);
    const usual = [...spans].sort((one, other) => one - other)[Math.floor(spans.length / 2)] || 0;
    const most = MISSING_STEPS * Math.max(stepS, usual);
    return points.flatMap((point, index) =>
        index && spans[index - 1] > most ? [[point[0] - spans[index - 1] / 2, null, null, null], point] : [point]
    );
}

/** Full quarters of an hour, hours and days on the reader's clock. */
export function roundTimes(since, until, hours) {
    const at = new Date(since);
    const forward = {
        1: () => at.setMinutes(Math.floor(at.getMinutes() / 15) * 15 + 15, 0, 0),
        24: () => at.setHours(Math.floor(at.getHours() / 6) * 6 + 6, 0, 0, 0),
        168: () => at.setHours(24, 0, 0, 0),
    }[hours];
    const times = [];
    while (forward() <= until) {
        times.push(at.getTime());
    }
    return times;
}

/** Some room above and below, but none below zero for what is never negative. */
function limits(points) {
    const lowest = Math.min(...points.map((point) => point[2]));
    const highest = Math.max(...points.map((point) => point[3]));
    const room = (highest - lowest) * 0.05 || Math.abs(highest) * 0.05 || 1;
    return {
        suggestedMin: lowest < 0 ? lowest - room : Math.max(0, lowest - room),
        suggestedMax: highest + room,
    };
}

/**
 * What a device says now: asked for every few seconds while its form is open and the page can be seen. On the form of
 * something else `deviceId` names the device, and `onLive` gets what it said.
 */
export class DeviceLive extends Component {
    static template = "industrial_iot.DeviceLive";
    static props = {
        ...standardWidgetProps,
        deviceId: { type: Number, optional: true },
        onLive: { type: Function, optional: true },
    };

    setup() {
        this.orm = useService("orm");
        this.canvas = useRef("canvas");
        this.chart = null;
        // the server says with what span to begin
        this.state = useState({ live: null, metric: false, hours: false });
        this.ranges = [
            { hours: 1, label: _t("1 h") },
            { hours: 24, label: _t("24 h") },
            { hours: 168, label: _t("7 days") },
        ];
        this.onVisibility = () => !document.hidden && this.ask();

        onWillStart(async () => {
            await Promise.all([loadBundle("web.chartjs_lib"), this.ask()]);
        });
        onMounted(() => {
            this.timer = setInterval(() => !document.hidden && this.ask(), ASK_EVERY_MS);
            document.addEventListener("visibilitychange", this.onVisibility);
        });
        onWillUnmount(() => {
            clearInterval(this.timer);
            document.removeEventListener("visibilitychange", this.onVisibility);
            this.gone = true;
            this.dropChart();
        });
        useEffect(
            () => this.drawChart(),
            () => [JSON.stringify(this.state.live && this.state.live.points)]
        );
        // whatever was done above, the box says what has come of it
        useRecordObserver(({ resId, data }) => {
            const known = [this.props.deviceId || resId, data.state, data.token_until?.ts].join();
            if (this.known !== undefined && this.known !== known) {
                this.ask();
            }
            this.known = known;
        });
    }

    get deviceId() {
        return this.props.deviceId || this.props.record.resId;
    }

    /** Where a phone shows at the top already how the device is connected. */
    get onOwnForm() {
        return !this.props.deviceId;
    }

    get live() {
        return this.state.live;
    }

    get badgeClass() {
        return { online: "text-bg-success", offline: "text-bg-danger" }[this.live.status] || "text-bg-secondary";
    }

    get badgeText() {
        return { online: _t("Online"), offline: _t("Offline") }[this.live.status] || _t("Unknown");
    }

    /** What a metric is called: the path of a value without the sign for the whole reading. */
    label(metric) {
        return metric.replace(/^\$\.?/, "");
    }

    /** A value of the last reading as it would be named in the template. */
    get example() {
        const name = this.live.values.length ? this.live.values[0].name : "temperature";
        return /[.[]/.test(name) ? `$.${name}` : name;
    }

    async ask() {
        const id = this.deviceId;
        if (!id || this.asking) {
            this.askAgain = Boolean(id);
            return;
        }
        this.asking = true;
        try {
            const { metric, hours } = this.state;
            // in the background: no spinner, and no dialog when the server is away for a moment
            const live = await this.orm.silent.call("iiot.device", "get_live", [[id]], { metric, hours });
            if (!this.gone && id === this.deviceId) {
                this.state.live = live;
                this.state.hours ||= live.points.length ? live.hours : false;
                await this.props.onLive?.(live);
            }
        } catch (error) {
            if (!this.state.live) {
                throw error;
            }
        } finally {
            this.asking = false;
        }
        if (this.askAgain && !this.gone) {
            this.askAgain = false;
            await this.ask();
        }
    }

    showMetric(metric) {
        this.state.metric = metric;
        return this.ask();
    }

    showHours(hours) {
        this.state.hours = hours;
        return this.ask();
    }

    dropChart() {
        if (this.chart) {
            this.chart.destroy();
            this.chart = null;
        }
    }

    drawChart() {
        this.dropChart();
        if (!this.canvas.el || !this.live || !this.live.points.length) {
            return;
        }
        const { points, hours } = this.live;
        const until = Date.now();
        const since = until - hours * 3600000;
        const drawn = withGaps(points, this.live.step_s);
        const series = (index) => drawn.map((point) => ({ x: point[0] * 1000, y: point[index] }));
        const alone = drawn.map((point, at) => isGap(drawn[at - 1]) && isGap(drawn[at + 1]));
        const common = { pointRadius: alone.map((is) => (is ? 3 : 0)), pointHitRadius: 8, borderWidth: 2, tension: 0 };
        const edge = { ...common, borderWidth: 0, pointRadius: 0, pointHitRadius: 0, backgroundColor: BAND };
        const look = hours > 24 ? { weekday: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
        this.chart = new window.Chart(this.canvas.el, {
            type: "line",
            data: {
                datasets: [
                    { ...common, label: this.label(this.live.metric), data: series(1), borderColor: LINE, backgroundColor: LINE },
                    { ...edge, label: _t("lowest"), data: series(2) },
                    { ...edge, label: _t("highest"), data: series(3), fill: "-1" },
                ],
            },
            options: {
                animation: false,
                maintainAspectRatio: false,
                interaction: { mode: "index", intersect: false },
                plugins: {
                    legend: { display: false },
                    tooltip: {
                        callbacks: {
                            title: (items) => new Date(items[0].parsed.x).toLocaleString(),
                            label: (item) => `${item.dataset.label}: ${Number(item.parsed.y.toPrecision(6))}`,
                        },
                    },
                },
                scales: {
                    x: {
                        type: "linear",
                        min: since,
                        max: until,
                        afterBuildTicks: (axis) => {
                            axis.ticks = roundTimes(since, until, hours).map((value) => ({ value }));
                        },
                        ticks: { callback: (ms) => new Date(ms).toLocaleString([], look), maxRotation: 0 },
                        grid: { display: false },
                    },
                    y: { ...limits(points), ticks: { maxTicksLimit: 6 } },
                },
            },
        });
    }
}

registry.category("view_widgets").add("iiot_device_live", { component: DeviceLive });
