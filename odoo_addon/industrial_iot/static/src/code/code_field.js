/** @odoo-module **/

import { useEffect } from "@odoo/owl";
import { CodeEditor } from "@web/core/code_editor/code_editor";
import { registry } from "@web/core/registry";
import { AceField, aceField } from "@web/views/fields/ace/ace_field";

/** An editor that breaks long lines: nothing has to be pushed sideways, on a phone least of all. */
export class WrappingEditor extends CodeEditor {
    setup() {
        super.setup();
        useEffect(
            (el) => el && this.aceEditor.setOptions({ wrap: true, indentedSoftWrap: false }),
            () => [this.editorRef.el]
        );
    }
}

export class CodeField extends AceField {
    static components = { ...AceField.components, CodeEditor: WrappingEditor };
}

registry.category("fields").add("iiot_code", { ...aceField, component: CodeField });
