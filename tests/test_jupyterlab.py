"""In JupyterLab, as a reader has it: three pages are opened in a browser, all cells run, pictures and tables are seen
whole, nothing fails and nobody complains."""
import base64, json, os, shutil, subprocess, sys, time
from pathlib import Path
import pytest
from clone import ROOT
pytest.importorskip('jupyterlab')
websocket = pytest.importorskip('websocket')

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed")
PATIENCE = 900 # seconds; busy machines
PAGES = '24_quantizers.vq', 'train_fsq', 'painter' # a chapter, a run, a toy

def wait_for(true, what):
    deadline = time.time()+PATIENCE
    while not (got := true()):
        assert time.time()<deadline, f'no {what} after {PATIENCE} s'
        time.sleep(.2)
    return got

class Browser:
    "One tab of a headless Chromium, over its debugging protocol."
    def __init__(self, folder, width=1400, height=1000):
        how = ('headless=new', 'no-sandbox', 'disable-gpu', 'disable-dev-shm-usage', 'remote-debugging-port=0',
               'no-first-run', 'disable-background-networking', 'remote-allow-origins=*', f'user-data-dir={folder}',
               f'window-size={width},{height}')
        self.process = subprocess.Popen([CHROMIUM, *(f'--{h}' for h in how), 'about:blank'], stderr=subprocess.DEVNULL)
        try: self._connect(folder, width, height)
        except BaseException: self.process.kill(); raise

    def _connect(self, folder, width, height):
        port,path = wait_for(lambda: self._said(folder/'DevToolsActivePort'), 'browser')
        self.socket = websocket.create_connection(f'ws://127.0.0.1:{port}{path}', timeout=PATIENCE)
        self.session,self.n,self.complaints = None,0,[]
        tabs = self.ask('Target.getTargets')['targetInfos']
        tab = next(t['targetId'] for t in tabs if t['type']=='page')
        self.session = self.ask('Target.attachToTarget', targetId=tab, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log'): self.ask(f'{domain}.enable')
        self.ask('Emulation.setFocusEmulationEnabled', enabled=True)
        self.ask('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)

    @staticmethod
    def _said(path): # port and path, once both are written
        lines = path.read_text().splitlines() if path.exists() else []
        return lines if len(lines)==2 else None

    def ask(self, method, **params):
        self.n += 1
        message = dict(id=self.n, method=method, params=params)
        self.socket.send(json.dumps(message | (dict(sessionId=self.session) if self.session else {})))
        while True:
            said = json.loads(self.socket.recv())
            if said.get('method')=='Runtime.exceptionThrown':
                self.complaints.append(said['params']['exceptionDetails'].get('text', ''))
            if said.get('id')==self.n:
                assert 'error' not in said, said['error']
                return said['result']

    def js(self, code):
        "The value of an expression."
        r = self.ask('Runtime.evaluate', expression=code, returnByValue=True)
        assert 'exceptionDetails' not in r, r['exceptionDetails']
        return r['result'].get('value')

    def done(self, code):
        "Wait until a promise is kept. The page holds it: one that nobody holds may be collected."
        self.js(f'window.kept = null; void ({code}).then(() => {{ kept = [] }}, e => {{ kept = [String(e)] }})')
        assert wait_for(lambda: (got := self.js('kept')) is not None and [got], code)==[[]], self.js('kept')

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.ask('Page.captureScreenshot', format='png')['data']))

    def close(self):
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()

@pytest.fixture(scope='module')
def lab(tmp_path_factory): # -> address of a JupyterLab over a copy of the pages, its token
    home = tmp_path_factory.mktemp('lab')
    (home/'clone'/'nbs').mkdir(parents=True)
    (home/'clone'/'nbs'/'results').symlink_to(ROOT/'nbs'/'results')
    shutil.copy(ROOT/'settings.ini', home/'clone')
    for name in PAGES:
        text = (ROOT/'nbs'/f'{name}.ipynb').read_text()
        assert name!='train_fsq' or text.count("profile:str = 'mini'")==1
        (home/'clone'/'nbs'/f'{name}.ipynb').write_text(text.replace("profile:str = 'mini'", "profile:str = 'smoke'"))
    quiet = home/'settings'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}') # nobody is asked, no network is tried
    mine = {f'JUPYTER_{k}_DIR':str(home/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    env = os.environ | mine | dict(HOME=str(home), JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), PYTHONPATH=str(ROOT),
                                   JUPYTERLAB_WORKSPACES_DIR=str(home/'workspaces'), OMP_NUM_THREADS='1')
    for name in ('MPLBACKEND', 'IUTOK_HERE'): env.pop(name, None)
    how = ('no-browser', 'allow-root', 'expose-app-in-browser', 'ServerApp.ip=127.0.0.1', 'ServerApp.port=0',
           'IdentityProvider.token=a-token', f'ServerApp.root_dir={home}/clone')
    log = (home/'log').open('w')
    p = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *(f'--{h}' for h in how)], env=env, cwd=home, stdout=log,
                         stderr=log)
    def address():
        assert p.poll() is None, (home/'log').read_text()[-2000:]
        files = [*(home/'runtime').glob('jpserver-*.json')]
        return files and json.loads(files[0].read_text())['url']
    try: yield wait_for(address, 'JupyterLab'),'a-token'
    finally:
        p.terminate()
        try: p.wait(30)
        except subprocess.TimeoutExpired: p.kill()

# of the page that is open; lab: the application
LAB = 'const lab = window.jupyterapp, w = [...lab.shell.widgets("main")].find(w => w.context?.path.endsWith("ipynb"));'
READY = """const s = w?.sessionContext
  return !!(w?.content?.widgets?.length && s?.isReady && s.session?.kernel?.connectionStatus=='connected')"""
RUN = "lab.shell.activateById(w.id); return lab.commands.execute('notebook:run-all-cells')"
SEEN = """return w.content.widgets.filter(c => c.model.type=='code').map(c => (
  {count: c.model.executionCount, code: c.model.sharedModel.getSource(), outputs: c.model.outputs.toJSON()}))"""
CLOSE = "return w.sessionContext.shutdown().then(() => { w.dispose() })"
PAGE = "document.querySelector('.jp-WindowedPanel-outer')"
WIDE = """(() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output')]
  .filter(o => o.scrollWidth>o.clientWidth+2).map(o => o.textContent.slice(0, 60)))()"""

@pytest.fixture(scope='module')
def opened(lab, tmp_path_factory): # page -> its cells after all were run, what does not fit, complaints
    shots = Path(os.environ.get('IUTOK_SHOTS') or tmp_path_factory.mktemp('shots'))
    browser,got = Browser(tmp_path_factory.mktemp('chromium')),{}
    try:
        browser.ask('Page.navigate', url=f'{lab[0]}lab?token={lab[1]}')
        wait_for(lambda: browser.js('!!window.jupyterapp'), 'JupyterLab in the browser')
        browser.done('window.jupyterapp.restored')
        browser.done("window.jupyterapp.commands.execute('application:toggle-left-area')")
        def of_lab(code): return f'(() => {{ {LAB} {code} }})()'
        for name in PAGES:
            browser.complaints.clear()
            browser.done(of_lab(f"return lab.commands.execute('docmanager:open', {{path: 'nbs/{name}.ipynb'}})"))
            wait_for(lambda: browser.js(of_lab(READY)), f'page {name} with a kernel')
            browser.done(of_lab(RUN))
            time.sleep(1) # the last output is drawn
            cells,wide = browser.js(of_lab(SEEN)),[]
            for i in range(200): # a screen at a time: what is not in sight is not drawn, and its height not known
                browser.js(f'{PAGE}.scrollTo(0, {i*800})')
                time.sleep(.3)
                wide += browser.js(WIDE)
                browser.picture(shots/f'{name}-{i:02}.png')
                if browser.js(f'{PAGE}.scrollTop+{PAGE}.clientHeight>={PAGE}.scrollHeight-2'): break
            got[name] = cells,wide,list(browser.complaints)
            browser.done(of_lab(CLOSE))
        yield got
    finally: browser.close()

@pytest.mark.parametrize('name', PAGES)
def test_all_cells_run_and_show_what_they_should(opened, name):
    cells,wide,complaints = opened[name]
    committed = [c for c in json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text())['cells'] if c['cell_type']=='code']
    assert len(cells)==len(committed) and all(c['count'] for c in cells if c['code'].strip())
    failed = [o for c in cells for o in c['outputs'] if o['output_type']=='error']
    assert not failed, failed[0]['evalue']
    noise = [''.join(o['text']) for c in cells for o in c['outputs'] if o.get('name')=='stderr']
    assert not noise, noise[0][:300]
    kinds = {k for c in cells for o in c['outputs'] for k in o.get('data', {})}
    assert ('application/vnd.jupyter.widget-view+json' if name=='painter' else 'image/png') in kinds
    assert not wide and not complaints
