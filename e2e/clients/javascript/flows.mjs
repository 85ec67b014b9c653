// The common flows of the JavaScript client against a cluster: one function a flow, each in a namespace of its own.
//
// Usage: node flows.mjs KUBECONFIG FOLDER-OF-NODE_MODULES. Prints a line a flow; ends with 1 when one failed. Nothing here sleeps.

import assert from 'node:assert/strict';
import net from 'node:net';
import { createRequire } from 'node:module';
import { PassThrough, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';

const [kubeconfig, modules] = process.argv.slice(2);
const k8s = await import(pathToFileURL(createRequire(`${modules}/x.js`).resolve('@kubernetes/client-node')).href);

const IMAGE = 'e2e/web:v1';
const WITHIN_MS = 60000;
const kc = new k8s.KubeConfig();
kc.loadFromFile(kubeconfig);
const core = kc.makeApiClient(k8s.CoreV1Api);
const apps = kc.makeApiClient(k8s.AppsV1Api);

const pod = (name, container = {}) => ({
  metadata: { name, labels: { app: name } },
  spec: { terminationGracePeriodSeconds: 1, restartPolicy: 'Never', containers: [{ name: 'c', image: IMAGE, ...container }] },
});
const patchAs = (type) => k8s.setHeaderOptions('Content-Type', type);

/** Rejects when `promise` takes too long. */
function within(what, promise) {
  let timer;
  const late = new Promise((_, no) => { timer = setTimeout(() => no(new Error(`${what}: not within ${WITHIN_MS} ms`)), WITHIN_MS); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The Status of a call that must fail with this code. */
async function refused(code, call) {
  try {
    await call;
  } catch (e) {
    assert.equal(e.code, code, `${e}`);
    return typeof e.body === 'string' ? JSON.parse(e.body) : e.body;
  }
  assert.fail(`not refused with ${code}`);
}

/** The first object that `holds`, by a watch from the beginning. */
async function seen(path, name, holds) {
  const watch = new k8s.Watch(kc);
  let stop;
  const found = new Promise((yes, no) => {
    watch.watch(path, { fieldSelector: `metadata.name=${name}` }, (type, object) => { if (holds(object, type)) yes(object); }, (e) => no(e ?? new Error('the watch ended')))
      .then((r) => { stop = r; }, no);
  });
  try {
    return await within(name, found);
  } finally {
    found.catch(() => {});
    stop?.abort();
  }
}
const podsOf = (namespace) => `/api/v1/namespaces/${namespace}/pods`;
const isReady = (p) => (p.status?.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True');

const flows = {
  async crud(namespace) {
    const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'a', labels: { x: 'y' } }, data: { k: '1' } } });
    assert.ok(made.metadata.creationTimestamp instanceof Date);
    assert.equal((await refused(409, core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'a' } } }))).reason, 'AlreadyExists');
    made.data.k = '2';
    const replaced = await core.replaceNamespacedConfigMap({ namespace, name: 'a', body: made });
    assert.equal(replaced.data.k, '2');
    assert.equal((await refused(409, core.replaceNamespacedConfigMap({ namespace, name: 'a', body: made }))).reason, 'Conflict');
    const name = 'a';
    const strategic = await core.patchNamespacedConfigMap({ namespace, name, body: { data: { m: '3' } } }, patchAs(k8s.PatchStrategy.StrategicMergePatch));
    assert.deepEqual(strategic.data, { k: '2', m: '3' });
    const merged = await core.patchNamespacedConfigMap({ namespace, name, body: { data: { m: null } } }, patchAs(k8s.PatchStrategy.MergePatch));
    assert.deepEqual(merged.data, { k: '2' });
    const json = await core.patchNamespacedConfigMap({ namespace, name, body: [{ op: 'replace', path: '/data/k', value: '4' }] }, patchAs(k8s.PatchStrategy.JsonPatch));
    assert.deepEqual(json.data, { k: '4' });
    const apply = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { k: '5' } };
    const conflict = await refused(409, core.patchNamespacedConfigMap({ namespace, name, body: apply, fieldManager: 'js' }, patchAs(k8s.PatchStrategy.ServerSideApply)));
    assert.equal(conflict.details.causes[0].field, '.data.k');
    const applied = await core.patchNamespacedConfigMap({ namespace, name, body: apply, fieldManager: 'js', force: true }, patchAs(k8s.PatchStrategy.ServerSideApply));
    assert.equal(applied.metadata.managedFields.find((m) => m.operation === 'Apply').manager, 'js');
    assert.equal((await core.listNamespacedConfigMap({ namespace, labelSelector: 'x=y' })).items.length, 1);
    assert.equal((await core.deleteNamespacedConfigMap({ namespace, name })).status, 'Success');
    assert.equal((await refused(404, core.readNamespacedConfigMap({ namespace, name }))).message, 'configmaps "a" not found');
  },

  async pages(namespace) {
    for (let i = 0; i < 5; i++) await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: `p${i}`, labels: { p: 'x' } } } });
    const names = [];
    let _continue;
    do {
      const page = await core.listNamespacedConfigMap({ namespace, limit: 2, _continue, labelSelector: 'p' });
      names.push(...page.items.map((c) => c.metadata.name));
      _continue = page.metadata._continue;
    } while (_continue);
    assert.deepEqual(names, ['p0', 'p1', 'p2', 'p3', 'p4']);
  },

  async informers(namespace) {
    const list = () => core.listNamespacedConfigMap({ namespace });
    const informer = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/configmaps`, list);
    const told = [];
    const done = new Promise((yes, no) => {
      for (const event of ['add', 'update', 'delete']) {
        informer.on(event, (o) => { if (o.metadata.name === 'i') { told.push(event); if (event === 'delete') yes(); } });
      }
      informer.on('error', no);
    });
    await informer.start();
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'i' } } });
    await core.patchNamespacedConfigMap({ namespace, name: 'i', body: { data: { a: 'b' } } }, patchAs(k8s.PatchStrategy.MergePatch));
    await core.deleteNamespacedConfigMap({ namespace, name: 'i' });
    await within('the deletion', done);
    await informer.stop();
    assert.deepEqual(told, ['add', 'update', 'delete']);
  },

  async workload(namespace) {
    const template = { metadata: { labels: { app: 'd' } }, spec: { ...pod('x').spec, restartPolicy: 'Always' } };
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'd' }, spec: { replicas: 1, selector: { matchLabels: { app: 'd' } }, template } } });
    await seen(`/apis/apps/v1/namespaces/${namespace}/deployments`, 'd', (d) => d.status?.availableReplicas === 1);
    const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'd' });
    assert.equal(scale.status.selector, 'app=d');
    scale.spec.replicas = 2;
    await apps.replaceNamespacedDeploymentScale({ namespace, name: 'd', body: scale });
    await seen(`/apis/apps/v1/namespaces/${namespace}/deployments`, 'd', (d) => d.status?.readyReplicas === 2);
    const [one] = (await core.listNamespacedPod({ namespace, labelSelector: 'app=d' })).items;
    await core.createNamespacedPodEviction({ namespace, name: one.metadata.name, body: { metadata: { name: one.metadata.name } } });
    await seen(podsOf(namespace), one.metadata.name, (p, type) => type === 'DELETED' || p.metadata.deletionTimestamp);
    await apps.deleteNamespacedDeployment({ namespace, name: 'd', propagationPolicy: 'Background' });
  },

  async inside(namespace) {
    await core.createNamespacedPod({ namespace, body: pod('web') });
    await seen(podsOf(namespace), 'web', isReady);
    const run = (command, stdin = null) => within(command.join(' '), new Promise((yes, no) => {
      const said = { out: '', err: '' };
      const into = (key) => new Writable({ write(chunk, _, next) { said[key] += chunk; next(); } });
      new k8s.Exec(kc).exec(namespace, 'web', 'c', command, into('out'), into('err'), stdin, false, (status) => yes({ ...said, status })).catch(no);
    }));
    assert.equal((await run(['hostname'])).out, 'web\n');
    const stdin = new PassThrough();
    stdin.write('words\n');
    const ended = await run(['sh', '-c', 'read x; echo got $x; echo bad >&2; exit 3'], stdin);
    assert.deepEqual([ended.out, ended.err, ended.status.status], ['got words\n', 'bad\n', 'Failure']);
    assert.deepEqual(ended.status.details.causes, [{ reason: 'ExitCode', message: '3' }]);
    assert.equal((await run(['sh', '-c', "head -c 300000 /dev/zero | tr '\\0' x"])).out.length, 300000);

    const server = net.createServer((socket) => new k8s.PortForward(kc).portForward(namespace, 'web', [8000], socket, null, socket));
    await new Promise((yes) => server.listen(0, '127.0.0.1', yes));
    const answer = await within('the page', fetch(`http://127.0.0.1:${server.address().port}/index.html`, { headers: { connection: 'close' } }).then((r) => r.text()));
    assert.equal(answer, 'v1 web\n');
    server.close();

    const log = new PassThrough();
    const followed = await new k8s.Log(kc).log(namespace, 'web', 'c', log, { follow: true });
    let text = '';
    // A line is in the log some time after its answer was read.
    await within('the request in the log', new Promise((yes) => log.on('data', (d) => { text += d; if (text.includes('response:200')) yes(); })));
    assert.equal(text.split('\n')[0], 'serving v1');
    followed.abort();
    assert.match(await core.readNamespacedPodLog({ namespace, name: 'web', tailLines: 1 }), /response:200/);

    await core.createNamespacedPod({ namespace, body: pod('cat', { stdin: true, stdinOnce: true, command: ['sh', '-c', 'read x; echo got $x'] }) });
    await seen(podsOf(namespace), 'cat', isReady);
    const typed = new PassThrough();
    let heard = '';
    const out = new Writable({ write(chunk, _, next) { heard += chunk; next(); } });
    const ws = await new k8s.Attach(kc).attach(namespace, 'cat', 'c', out, null, typed, false);
    const closed = new Promise((yes) => ws.on('close', yes));
    typed.write('this\n');
    await within('the end of attach', closed);
    assert.match(heard, /got this/);
    await seen(podsOf(namespace), 'cat', (p) => p.status?.phase === 'Succeeded');
  },

  async custom(namespace) {
    const group = `${namespace}.keles.dev`;
    const definitions = kc.makeApiClient(k8s.ApiextensionsV1Api);
    const objects = kc.makeApiClient(k8s.CustomObjectsApi);
    const spec = { type: 'object', properties: { size: { type: 'integer', minimum: 1 } } };
    const name = `widgets.${group}`;
    await definitions.createCustomResourceDefinition({ body: {
      metadata: { name },
      spec: {
        group, scope: 'Namespaced', names: { plural: 'widgets', singular: 'widget', kind: 'Widget' },
        versions: [{ name: 'v1', served: true, storage: true, subresources: { status: {} }, schema: { openAPIV3Schema: { type: 'object', properties: { spec, status: { type: 'object', x_kubernetes_preserve_unknown_fields: true } } } } }],
      },
    } });
    try {
      await seen('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', name, (d) => (d.status?.conditions ?? []).some((c) => c.type === 'Established' && c.status === 'True'));
      const at = { group, version: 'v1', namespace, plural: 'widgets' };
      await objects.createNamespacedCustomObject({ ...at, body: { apiVersion: `${group}/v1`, kind: 'Widget', metadata: { name: 'w' }, spec: { size: 2 } } });
      assert.equal((await refused(422, objects.patchNamespacedCustomObject({ ...at, name: 'w', body: { spec: { size: 0 } } }, patchAs(k8s.PatchStrategy.MergePatch)))).details.causes[0].field, 'spec.size');
      await objects.patchNamespacedCustomObjectStatus({ ...at, name: 'w', body: { status: { seen: true } } }, patchAs(k8s.PatchStrategy.MergePatch));
      const dynamic = k8s.KubernetesObjectApi.makeApiClient(kc);
      const read = await dynamic.read({ apiVersion: `${group}/v1`, kind: 'Widget', metadata: { name: 'w', namespace } });
      assert.deepEqual([read.spec.size, read.status.seen], [2, true]);
      await dynamic.delete(read);
      await refused(404, dynamic.read({ apiVersion: `${group}/v1`, kind: 'Widget', metadata: { name: 'w', namespace } }));
    } finally {
      await definitions.deleteCustomResourceDefinition({ name });
    }
  },

  async dynamic(namespace) {
    const dynamic = k8s.KubernetesObjectApi.makeApiClient(kc);
    for (const object of [
      { apiVersion: 'v1', kind: 'Service', metadata: { name: 's', namespace }, spec: { ports: [{ port: 80 }] } },
      { apiVersion: 'batch/v1', kind: 'Job', metadata: { name: 'j', namespace }, spec: { suspend: true, template: { spec: { restartPolicy: 'Never', containers: [{ name: 'c', image: 'i' }] } } } },
      { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: { name: 'r', namespace }, rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['get'] }] },
    ]) {
      const made = await dynamic.create(object);
      assert.equal(made.kind, object.kind);
      const patched = await dynamic.patch({ ...object, metadata: { ...object.metadata, labels: { a: 'b' } } });
      assert.equal(patched.metadata.labels.a, 'b');
      assert.equal((await dynamic.list(object.apiVersion, object.kind, namespace, undefined, undefined, undefined, undefined, 'a=b')).items.length, 1);
    }
  },

  async tokens(namespace) {
    await core.createNamespacedServiceAccount({ namespace, body: { metadata: { name: 'sa' } } });
    const asked = await core.createNamespacedServiceAccountToken({ namespace, name: 'sa', body: { spec: { audiences: [], expirationSeconds: 600 } } });
    const own = new k8s.KubeConfig();
    own.loadFromOptions({ clusters: [kc.getCurrentCluster()], users: [{ name: 'sa', token: asked.status.token }], contexts: [{ name: 'c', cluster: kc.getCurrentCluster().name, user: 'sa' }], currentContext: 'c' });
    const me = await own.makeApiClient(k8s.AuthenticationV1Api).createSelfSubjectReview({ body: {} });
    assert.equal(me.status.userInfo.username, `system:serviceaccount:${namespace}:sa`);
    assert.match((await refused(403, own.makeApiClient(k8s.CoreV1Api).listNamespacedSecret({ namespace }))).message, /cannot list resource "secrets"/);
  },

  async everyList() {
    let count = 0;
    for (const [name, api] of Object.entries(k8s).filter(([n]) => /^[A-Z]\w*V\d\w*Api$/.test(n))) {
      const made = kc.makeApiClient(api);
      for (const method of Object.getOwnPropertyNames(Object.getPrototypeOf(made)).concat(Object.getOwnPropertyNames(api.prototype)).filter((m, i, all) => m.startsWith('list') && !/Namespaced|ComponentStatus|WithHttpInfo/.test(m) && all.indexOf(m) === i)) {
        try {
          assert.ok((await made[method]({})).metadata.resourceVersion, `${name}.${method}`);
          count += 1;
        } catch (e) {
          // The client knows versions that no server serves by default.
          if (e.code !== 404) throw new Error(`${name}.${method}: ${e}`);
        }
      }
    }
    assert.ok(count > 50, `${count}`);
  },
};

async function play([name, flow]) {
  const namespace = `js-${name.toLowerCase()}`;
  try {
    await core.createNamespace({ body: { metadata: { name: namespace } } });
    await seen(`/api/v1/namespaces/${namespace}/serviceaccounts`, 'default', () => true);
    await flow(namespace);
    console.log(`ok ${name}`);
    return true;
  } catch (e) {
    console.log(`FAILED ${name}: ${e.stack ?? e}`);
    return false;
  }
}

const held = await Promise.all(Object.entries(flows).map(play));
process.exit(held.every(Boolean) ? 0 : 1);
