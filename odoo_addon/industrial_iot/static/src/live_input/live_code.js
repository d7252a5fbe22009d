/** @odoo-module **/

import { useEffect, useRef } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { useDebounced } from "@web/core/utils/timing";
import { AceField, aceField } from "@web/views/fields/ace/ace_field";
import { WrappingEditor } from "../code/code_field";
import { LIVE_AFTER_MS } from "./live_text";

/**
 * Odoo's editor of code, which tries what is typed while it is typed, and marks the line that is wrong: the option
 * `mark` names a field that holds `{line: from 1 on, text}` or nothing.
 */
export class LiveCode extends AceField {
    static template = "industrial_iot.LiveCode";
    static components = { ...AceField.components, CodeEditor: WrappingEditor };
    static props = { ...AceField.props, mark: { type: String, optional: true } };

    setup() {
        super.setup();
        this.root = useRef("root");
        this.commitSoon = useDebounced(() => this.commitChanges(), LIVE_AFTER_MS);
        useEffect(
            (mark) => this.showMark(JSON.parse(mark)),
            () => [JSON.stringify((this.props.mark && this.props.record.data[this.props.mark]) || null)]
        );
    }

    /** What is typed stays, whatever the server is asked meanwhile. */
    get shown() {
        return this.isDirty ? this.editedValue : this.state.initialValue;
    }

    handleChange(editedValue) {
        super.handleChange(editedValue);
        this.commitSoon();
    }

    async commitChanges() {
        if (this.props.readonly || !this.isDirty) {
            return;
        }
        const typed = this.editedValue;
        await this.props.record.update({ [this.props.name]: typed });
        this.isDirty = this.editedValue !== typed;
        this.props.record.model.bus.trigger("FIELD_IS_DIRTY", this.isDirty);
    }

    showMark(mark) {
        const editor = this.root.el.querySelector(".ace_editor")?.env?.editor;
        if (!editor) {
            return;
        }
        const session = editor.getSession();
        session.removeMarker(this.marker);
        session.setAnnotations(mark ? [{ row: mark.line - 1, column: 0, text: mark.text, type: "error" }] : []);
        if (mark) {
            const line = editor.getSelectionRange().constructor.fromPoints(
                { row: mark.line - 1, column: 0 },
                { row: mark.line - 1, column: 1 }
            );
            this.marker = session.addMarker(line, "o_iiot_wrong_line", "fullLine");
        }
    }
}

export const liveCode = {
    ...aceField,
    component: LiveCode,
    extractProps: (...given) => ({ ...aceField.extractProps(...given), mark: given[0].options.mark }),
};

registry.category("fields").add("iiot_live_code", liveCode);
